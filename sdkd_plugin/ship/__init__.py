"""What goes out of the house with a trained student: its card, and files for deployment."""
