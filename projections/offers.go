package projections

import (
	"cartwright/domain/catalog"
	"cartwright/domain/event"
)

// OffersView is the view of offers, one document a SKU.
func OffersView() View[Offer] {
	return View[Offer]{Name: "offers", Categories: []string{"offer"}, Apply: applyOffer, Parties: offerParties}
}

func offerParties(decoded any) (buyer, seller string) {
	if described, ok := decoded.(catalog.Described); ok {
		return "", described.Snapshot.Seller
	}
	return "", ""
}

func applyOffer(o Offer, r event.Recorded, decoded any) (Offer, error) {
	e, err := own[catalog.Event](r, decoded)
	if err != nil {
		return o, err
	}
	was := catalog.Offer{Snapshot: o.Snapshot, Digest: o.Digest, OnSale: o.OnSale, Known: o.Known}
	is, err := catalog.Decider.Evolve(was, e)
	if err != nil {
		return o, err
	}
	return Offer{Snapshot: is.Snapshot, Digest: is.Digest, OnSale: is.OnSale, Known: is.Known, ChangedAt: when(r)}, nil
}
