"""What an answer must look like: schemas, expressions and grammars as automata over tokens."""
