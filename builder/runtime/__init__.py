"""Ships inside images: standard library only, imported by nothing of imgbuild."""
