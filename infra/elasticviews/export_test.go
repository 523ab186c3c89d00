package elasticviews

// SplitAndAdd splits amounts, adds up the parts as the server does, and puts
// the sum together.
func SplitAndAdd(amounts ...int64) int64 {
	var parts [parts]double
	for _, amount := range amounts {
		for i, p := range split(amount) {
			parts[i].Value += float64(p)
		}
	}
	return whole(parts[:]...).int64()
}
