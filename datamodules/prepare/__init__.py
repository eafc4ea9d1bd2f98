"""From downloaded film to a prepared data set: plan, track faces, gate, pack."""
