package seen

// Runs is how many runs the newest page has.
func Runs(m Memory) int { return len(m.Newest.runs) }
