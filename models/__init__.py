"""Networks, losses and geometry; nothing here knows how they are trained."""
