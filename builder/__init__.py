"""imgbuild: LLM-inference images from one matrix.yaml, for Docker and Apptainer."""

__version__ = "0.1.0"
