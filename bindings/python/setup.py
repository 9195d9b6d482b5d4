"""What pyproject.toml cannot say: the version, which `make wheel` hands over, and a tag of the platform alone, since the library
in the package is for any Python of it."""
import os

from setuptools import setup

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # before setuptools 70
    from wheel.bdist_wheel import bdist_wheel


class PlatformWheel(bdist_wheel):
    def finalize_options(self):
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


setup(version=os.environ.get("OUSAC_VERSION", "0"), cmdclass={"bdist_wheel": PlatformWheel})
