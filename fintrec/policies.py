"""Which ranking policy is in force (eq. 1's coefficients, values and urgencies)."""

from collections.abc import Iterable

from features.records import RankingPolicy

DEFAULT_POLICY = RankingPolicy(version=0)


class PolicyBook:
    """Every known policy version; the newest that has taken effect is used.

    A scope's own policy goes before the one for every surface (scope ""). Time is the instant of
    the decision, never an event time, so a late request is ranked as its neighbours are.
    """

    def __init__(self, policies: Iterable[RankingPolicy] = ()) -> None:
        self._by_scope: dict[str, dict[int, RankingPolicy]] = {}
        for policy in policies:
            self.add(policy)

    def add(self, policy: RankingPolicy) -> None:
        """Take a policy in; a version given again replaces the earlier text of it."""
        self._by_scope.setdefault(policy.scope, {})[policy.version] = policy

    def remove(self, scope: str, version: int) -> None:
        """Forget a version (a tombstone on the topic)."""
        self._by_scope.get(scope, {}).pop(version, None)

    def in_force(self, scope: str, decided_at_ms: int) -> RankingPolicy:
        """The policy for a product at an instant; `DEFAULT_POLICY` where none has taken effect.

        Among policies in effect the one with the latest `effective_from_ms` is the newest; equal
        instants are decided by the higher version.
        """
        for name in dict.fromkeys((scope, "")):
            effective = [
                policy
                for policy in self._by_scope.get(name, {}).values()
                if policy.effective_from_ms <= decided_at_ms
                and (policy.expires_ms is None or decided_at_ms < policy.expires_ms)
            ]
            if effective:
                return max(effective, key=lambda p: (p.effective_from_ms, p.version))
        return DEFAULT_POLICY

    def all(self) -> list[RankingPolicy]:
        """Every version known, by scope and version."""
        return [
            versions[version]
            for _, versions in sorted(self._by_scope.items())
            for version in sorted(versions)
        ]
