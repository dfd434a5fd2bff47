"""The flow: chunks made one from another, ahead of their reader, and the way readers learn of them. asyncio only."""
