"""3D face models that data sets bring or that are fitted to them."""
