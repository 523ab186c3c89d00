package writeapi

// Reading reads a text strictly, and tells what it should have been read into.
type Reading struct {
	Name   string
	Strict func(text []byte) (any, error)
	Into   func() any
}

// Readings are those of all bodies that there are.
func Readings() []Reading {
	return []Reading{
		reading[accountBody]("account"), reading[transferBody]("transfer"), reading[drawBody]("draw"),
		reading[checkoutBody]("checkout"), reading[payBody]("pay"), reading[receiptBody]("receipt"),
		reading[adjustmentBody]("adjustment"), reading[countBody]("count"), reading[policyBody]("policy"),
		reading[waybillBody]("waybill"), reading[parcelBody]("parcel"), reading[addressBody]("address"),
		reading[cancelBody]("cancel"), reading[completeBody]("complete"), reading[nothing]("nothing"), reading[offerBody]("offer"),
		reading[paymentBody]("payment"), reading[redirectBody]("redirect"), reading[refundBody]("refund"),
		reading[resolveBody]("resolve"), reading[returnBody]("return"),
	}
}

func reading[B body](name string) Reading {
	s := shapeFor[B]()
	return Reading{
		Name: name,
		Strict: func(text []byte) (any, error) {
			b := new(B)
			return b, strict(text, s, b)
		},
		Into: func() any { return new(B) },
	}
}
