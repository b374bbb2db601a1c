"""From labelled MR to CT: similar slices, brain CT without its skull, pseudo-CT.

Reference: Dong et al. (AMD-DAS).
"""
