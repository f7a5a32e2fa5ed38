"""The rules that manifests are checked against: what reviewers of platform teams look for."""
