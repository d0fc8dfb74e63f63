"""CNI plugins in Python. Start reading at engine/lifecycle.py."""
