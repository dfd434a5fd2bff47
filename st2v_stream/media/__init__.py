"""Pictures in and out: chunks become H.264 segments, segments become files, uploads become frames. Imports no torch."""
