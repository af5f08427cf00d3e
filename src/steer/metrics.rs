//! What is not counted but looked at when somebody asks for the metrics: how backends and groups are, what is remembered.

use super::Steering;
use crate::metrics::Remembered;

impl Steering {
    /// Tells the metrics how things are at this moment.
    pub fn look(&self) {
        let state = self.state();
        let metrics = &state.metrics;
        for backend in state.router.backends() {
            metrics.backend_stands(&backend.config.name, backend.standing());
        }
        metrics.groups_stand(state.router.groups().iter().map(|group| (group.name.as_str(), group.standing())));
        for (lookup, entries) in state.router.kept_answers() {
            metrics.lookup_keeps(lookup, entries);
        }
        for (limit, remembered) in state.limits.remembered() {
            metrics.limit_remembers(limit, remembered.map(|(keys, held)| Remembered { keys, held }));
        }
        for (limit, keys) in state.admission.remembered() {
            metrics.limit_remembers(limit, keys.map(|keys| Remembered { keys, held: 0 }));
        }
        metrics.sessions_limit(state.config.limits.sessions);
    }
}
