"""What benchmarks of free replies share: reading records, edits with a control, classifiers."""
