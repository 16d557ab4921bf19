"""Side-by-side runs, beside the package. It is a package itself, because opacus installs another one of that name."""
