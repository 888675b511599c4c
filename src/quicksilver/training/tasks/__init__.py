"""Small tasks that prove the method: sudoku and characters. Each is a task config for the trainer."""
