"""What good means: objective, metrics, suites, gate. Always `from eval.gate import decide`."""
