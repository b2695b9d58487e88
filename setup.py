"""Maps the five folders at the root, and whatever lies below them, under the `idlegrid` namespace; and the models."""

from setuptools import find_packages, setup

FOLDERS = ("grid", "scheduler_plugins", "actors", "pipelines", "api")

found = [name for folder in FOLDERS for name in (folder, *(f"{folder}.{sub}" for sub in find_packages(folder)))]

setup(
    packages=[f"idlegrid.{name}" for name in (*found, "models")],
    package_dir={f"idlegrid.{folder}": folder for folder in (*FOLDERS, "models")},
)
