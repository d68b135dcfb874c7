"""configs/ goes into a wheel as consistency/configs, where an installed package looks for it."""

from pathlib import Path
from shutil import rmtree

from setuptools import setup
from setuptools.command.build_py import build_py

PACKAGE, FOLDER = "consistency.configs", "configs"


class BuildWithConfigs(build_py):
    """Builds the packages of src/ and, but for an editable install, the files of configs/ as one more."""

    def finalize_options(self) -> None:
        """Add the package to those of pyproject.toml."""
        super().finalize_options()
        if not self.editable_mode:
            self.packages = [*(self.packages or ()), PACKAGE]
            self.package_dir = {**(self.package_dir or {}), PACKAGE: FOLDER}
            self.package_data = {**self.package_data, PACKAGE: ["**/*.yaml"]}

    def run(self) -> None:
        """Build anew: what the checkout no longer has would stay in the wheel."""
        if not self.editable_mode:
            rmtree(Path(self.build_lib), ignore_errors=True)
        super().run()


setup(cmdclass={"build_py": BuildWithConfigs})
