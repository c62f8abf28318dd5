"""What results say, print and write into a folder: the same for the command line and the door."""
