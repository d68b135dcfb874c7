"""Hydra's door to the configs of trusted packages: they follow ours in its search path."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class TrustedConfigs(SearchPathPlugin):
    """Appends the folder `configs` of each package that the command trusts."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra, whenever it is to compose."""
        from consistency.files.configs import trusted

        for package in trusted():
            for folder in package.configs:
                search_path.append(package.name, f"file://{folder}")
