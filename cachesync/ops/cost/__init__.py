"""What a store costs a month: arithmetic over a few numbers, given or counted."""
