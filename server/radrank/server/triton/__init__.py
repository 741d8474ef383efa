"""radrank in Triton's python backend: what the models of an exported repository run. Needs the extras server and cpu.

answering   requests of the backend, one by one, and its errors
model       a model of the bundle, on ONNX Runtime in the backend's own process
search      the whole search, which asks the bundle's models on the same Triton
bls         one of those models as an Engine

A repository's `model.py` imports a TritonPythonModel from here. The backend's own module, triton_python_backend_utils,
exists in its processes alone: it is handed on as `backend`.
"""
