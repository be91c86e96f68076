"""What a job will do, worked out before it starts; everything that can be refused is refused."""
