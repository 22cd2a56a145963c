"""What each command of the program does; `agent.cli` only says what they are called."""
