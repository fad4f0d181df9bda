# worker agent
