"""What a reload takes over, and what it says about the rest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import settings as examples
from twisted.trial.unittest import SynchronousTestCase

from tests.config.strategies import settings
from twisted_mta import config
from twisted_mta.config import Settings, changes
from twisted_mta.config.settings import Listener


class Reload(SynchronousTestCase):
    def test_taken_over(self) -> None:
        loaded = config.parse(
            'hostname = "mx2.isp.example"\n[relay]\nnetworks = ["10.0.0.0/8"]\n[tls]\nminimum = "1.3"'
        )
        self.assertEqual(config.for_reload(Settings(), loaded), (loaded, []))

    def test_not_taken_over(self) -> None:
        loaded = config.parse(
            'state_dir = "/x"\n[listen.new]\nport = 25\n[queue]\nsync = "never"\nlifetime = "1d"\n[admin]\nlisten = ""'
        )
        kept, warnings = config.for_reload(Settings(), loaded)
        self.assertEqual(kept.queue.lifetime, 86400.0)
        self.assertEqual(
            (kept.state_dir, kept.listen, kept.queue.sync, kept.admin),
            ("./var", Settings().listen, "always", Settings().admin),
        )
        keys = ["state_dir", "listen.mx", "listen.submission", "listen.submissions", "listen.new"]
        self.assertEqual([warning.key for warning in warnings], [*keys, "queue.sync", "admin.listen"])
        self.assertEqual(
            str(warnings[0]),
            "state_dir: warning: was changed, which a reload does not do; restart the service to make it hold",
        )

    def test_a_listener_that_changed(self) -> None:
        one, other = Settings(listen={"a": Listener()}), Settings(listen={"a": Listener(port=26)})
        self.assertEqual(changes.changed(one, other), ["listen.a"])

    @examples(max_examples=25)
    @given(settings(), settings())
    def test_what_is_kept_is_what_is_said(self, running: Settings, loaded: Settings) -> None:
        kept, warnings = config.for_reload(running, loaded)
        self.assertEqual({warning.key for warning in warnings}, set(changes.changed(kept, loaded)))
        for key in changes.changed(running, kept):
            self.assertFalse(key.startswith(changes.AT_START), key)
        self.assertEqual(changes.changed(kept, kept), [])
