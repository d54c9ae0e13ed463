"""What `pip install` needs to know: the pinned stack and its extras."""
import pathlib

from setuptools import find_namespace_packages, setup

# Pinned to what installs and imports together. TensorFlow 2.15 is the last
# with Keras 2 and with Cloud TPU pod images, and the one that
# tensorflow-addons 0.23 and tensorflow-io 0.36 are built for.
REQUIRED = [
    "absl-py",
    "av>=17",  # PyAV; brings its own FFmpeg.
    "importlib_resources",  # tensorflow-datasets uses it without asking for it.
    "matplotlib",
    "ml-collections",
    "numpy<2",
    "protobuf<5",
    "pyarrow<26",  # 26 refuses numpy 1.26.
    "safetensors",
    "scikit-learn",
    "scipy",
    "tensorflow==2.15.1",
    "tensorflow-addons==0.23.0",
    "tensorflow-datasets==4.9.7",
    "tensorflow-io==0.36.0",
    "tensorflow-metadata==1.15.0",  # Newer ones need protobuf 5.
    "tqdm",
]

# Datasets built by many machines; 2.77 goes with protobuf 4.
BEAM = ["apache-beam==2.77.0"]

setup(
    name="vatt",
    version="0.1.0",
    description="VATT: Transformers for self-supervised learning from raw"
    " video, audio and text, in TensorFlow 2",
    long_description=pathlib.Path(__file__).with_name("README.md").read_text(
        encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    project_urls={"Paper": "https://arxiv.org/abs/2104.11178"},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Topic :: Multimedia :: Video",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    keywords="video audio text transformer self-supervised contrastive"
    " tensorflow tpu",
    python_requires=">=3.10,<3.12",
    # Where nothing else is that could be called `configs`; vatt/cli.py finds
    # them there.
    packages=[*find_namespace_packages(include=["vatt", "vatt.*"]),
              "vatt.shipped.configs"],
    package_data={"vatt.data.datasets": ["*.txt"]},  # names of classes
    package_dir={"vatt.shipped.configs": "configs"},
    install_requires=REQUIRED,
    entry_points={"console_scripts": [
        "vatt-embed = vatt.cli:entry",
        "vatt-classify = vatt.cli:entry",
        "vatt-export = vatt.cli:entry",
        "vatt-search = vatt.cli:entry",
    ]},
    extras_require={
        "beam": BEAM,
        "faiss": ["faiss-cpu"],  # search in millions of windows
        "gpu": ["tensorflow[and-cuda]==2.15.1"],
        # pytest-xdist 3.8 cannot keep tests together with pytest 9.
        # transformers: another's ViT and T5, to compare ours with.
        "dev": [*BEAM, "import-linter", "pytest<9", "pytest-xdist", "ruff",
                "transformers==4.45.2"],
    },
)
