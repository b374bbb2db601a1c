"""Names of the files of a study that belong to its page."""

INDEX, PAGE, FACTS, PICTURE = "index.html", "report.html", "report.json", "report.png"
MEASUREMENTS = "measurements.json"
ADVICE = "predict the study again"
