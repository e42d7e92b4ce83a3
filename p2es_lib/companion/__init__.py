"""What turns the library into a paper companion: notebooks through papermill, the workflow, exercises, filled pages."""
