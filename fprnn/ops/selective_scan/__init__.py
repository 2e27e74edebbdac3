"""The selective scan of Mamba: the loop to read, and the fast forms beside it."""
