"""Thresholds in Hounsfield units that several modules share."""

AIR_SHOWS_BELOW_HU = -200  # in any CT of a patient
LUNG_BELOW_HU = -400  # aerated lung has -900 to -500 HU, soft tissue more than -100

FILL_HU = -1024  # air, which stands where nothing was scanned
# nothing scanned lies below; scanners fill what they did not scan with -2000, -3024 and the like
PADDING_BELOW_HU = -1500
