"""The declaration of stamp."""

from cni_plugins.contract.plugin import Plugin
from tests.integration.chained.stamp.config import parse
from tests.integration.chained.stamp.plan import collect, decide, delete

PLUGIN = Plugin("stamp", decide, parse=parse, delete=delete, collect=collect, is_chained=True)
