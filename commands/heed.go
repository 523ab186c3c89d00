package commands

import (
	"bytes"

	"cartwright/domain/event"
)

// Heeds tells whether React has anything to do for an event, as far as that can be
// seen without reading it. It saves the reading and not the looking: what it says
// no to, React would do nothing for. Most orders that are placed are a checkout's
// only one, and nothing follows from them.
func Heeds(r event.Recorded) bool {
	return r.Name != "order.placed" || r.Version > 1 || bytes.Contains(r.Data, siblingsField)
}

// siblingsField stands in the JSON of every placed order that has siblings: it is
// how order.Placed is written, in the only version there is
// (TestAPlacedOrderIsHeededIfItHasSiblings).
var siblingsField = []byte(`"siblings"`)
