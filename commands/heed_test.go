package commands_test

import (
	"encoding/json"
	"testing"

	"cartwright/commands"
	"cartwright/domain/event"
	"cartwright/domain/order"
)

func TestAPlacedOrderIsHeededIfItHasSiblings(t *testing.T) {
	placed := func(siblings ...order.Sibling) event.Recorded {
		data, err := json.Marshal(order.Placed{Order: "1", Checkout: "1", Siblings: siblings})
		if err != nil {
			t.Fatal(err)
		}
		return event.Recorded{Name: "order.placed", Version: 1, Data: data}
	}
	if commands.Heeds(placed()) {
		t.Error("an order without siblings is heeded")
	}
	if !commands.Heeds(placed(order.Sibling{Order: "2"})) {
		t.Error("an order with a sibling is passed over")
	}
	newer := placed()
	newer.Version++
	if !commands.Heeds(newer) {
		t.Error("an order in a form that is not known here is passed over")
	}
	for _, name := range commands.Follows() {
		if name != "order.placed" && !commands.Heeds(event.Recorded{Name: name, Version: 1, Data: []byte(`{}`)}) {
			t.Errorf("%s is passed over", name)
		}
	}
}
