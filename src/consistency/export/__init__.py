"""Where a trained model goes: programs without Python, folders of other libraries, a page in a browser."""
