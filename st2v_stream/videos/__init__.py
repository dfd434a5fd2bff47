"""Videos: films that grow, live on when every viewer leaves, and survive the process."""
