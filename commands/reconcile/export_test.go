package reconcile

import (
	"cartwright/domain/order"
	"cartwright/domain/payment"
)

// Repacked gives back what is kept of an order.
func Repacked(o order.Order) (back order.Order) {
	t := tape{at: map[string]int{}}
	t.unpack(t.pack(func(t *tape) { t.order(&o) }), func(t *tape) { t.order(&back) })
	return back
}

// RepackedPayment gives back what is kept of a payment.
func RepackedPayment(p payment.Payment) (back payment.Payment) {
	t := tape{at: map[string]int{}}
	t.unpack(t.pack(func(t *tape) { t.payment(&p) }), func(t *tape) { t.payment(&back) })
	return back
}
