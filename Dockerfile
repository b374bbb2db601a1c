# The hospital path: nnUNetv2_ext_predict_dicom, nnUNetv2_ext_listen and nnU-Net's own commands.
#   CPU:   docker build -t nnunet-ext .
#   CUDA:  docker build -t nnunet-ext --build-arg BASE=pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime .
# The base needs Python 3.10 or later; one that holds torch already keeps it.
ARG BASE=python:3.12-slim
FROM ${BASE}

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1

# Taken first, so that a change of this package does not fetch torch again.
RUN python -c "import torch" 2>/dev/null || pip install "torch>=2.7,!=2.9.*" --index-url "${TORCH_INDEX}"

WORKDIR /opt/nnunet_ext
COPY pyproject.toml setup.py README.md LICENSE ./
COPY nnunet_ext nnunet_ext
COPY dataset_conversion dataset_conversion
RUN pip install ".[dicom]"

# The key of names and the file of names lie here; keep it on a volume, and private.
RUN useradd --create-home --uid 10001 nnunet \
    && install -d -o nnunet -g nnunet -m 0700 /private /incoming /results
ENV nnUNet_ext_key=/private/key
USER nnunet
WORKDIR /results
VOLUME ["/private", "/incoming", "/results"]

ENTRYPOINT ["nnUNetv2_ext_predict_dicom"]
CMD ["--help"]
