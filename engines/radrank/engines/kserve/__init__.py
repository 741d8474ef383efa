"""Models as the KServe v2 protocol and Triton declare them: for our own server, and for the Triton that is exported to.

tensors   names, datatypes and shapes
axes      which axes vary together, which rows exist
search    the search as a model
exported  what a Triton repository keeps beside them
config    a model's configuration, as a message. Needs the extra `triton`
"""
