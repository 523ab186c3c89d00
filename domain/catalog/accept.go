package catalog

import (
	"errors"
	"strings"

	"cartwright/domain"
	"cartwright/domain/account"
	"cartwright/domain/money"
)

const (
	maxTitle = 300 // characters
	maxSpecs = 50
	maxSpec  = 200 // characters of a spec's name, and of its value
)

// accepts refuses a snapshot that can't be offered, naming everything that is
// wrong with it at once.
func (o Offer) accepts(s Snapshot) error {
	if wrong := faults(s); len(wrong) > 0 {
		err := domain.Refuse(domain.Invalid, "bad_offer", "%s", wrong[0].Detail)
		err.Fields = wrong
		return err
	}
	switch {
	case o.Digest == "":
		return nil
	case s.SKU != o.Snapshot.SKU:
		return domain.Refuse(domain.Invalid, "bad_offer", "This is the offer of %s, not of %s.", o.Snapshot.SKU, s.SKU)
	case s.Seller != o.Snapshot.Seller:
		return domain.Refuse(domain.Conflict, "seller_fixed", "%s is sold by another seller.", s.SKU)
	}
	return nil
}

// faults lists what is wrong; pointers are into the snapshot's JSON.
func faults(s Snapshot) []domain.Field {
	var wrong []domain.Field
	if e, ok := errors.AsType[*domain.Error](domain.CheckSKU("/sku", s.SKU)); ok {
		wrong = append(wrong, e.Fields...)
	}
	if e, ok := errors.AsType[*domain.Error](domain.CheckID("/seller", s.Seller)); ok {
		wrong = append(wrong, e.Fields...)
	}
	check := func(ok bool, pointer, detail string) {
		if !ok {
			wrong = append(wrong, domain.Field{Pointer: pointer, Detail: detail})
		}
	}
	check(!account.IsPlatform(s.Seller), "/seller", "The platform's own accounts sell nothing.")
	check(strings.TrimSpace(s.Title) != "" && fits(s.Title, maxTitle), "/title", "A title is text of 1 to 300 characters.")
	check(money.Valid(s.Currency), "/currency", "A currency is an ISO-4217 code.")
	check(s.UnitPrice >= 0, "/unit_price", "A price is not negative.")
	check(s.Freight >= 0, "/freight", "Freight is not negative.")
	check(len(s.Specs) <= maxSpecs, "/specs", "An offer has at most 50 specs.")
	check(specsFit(s.Specs), "/specs", "A spec has a name; name and value are text of at most 200 characters.")
	return wrong
}

func specsFit(specs map[string]string) bool {
	for name, value := range specs {
		if name == "" || !fits(name, maxSpec) || !fits(value, maxSpec) {
			return false
		}
	}
	return true
}

// fits asks for text that JSON keeps as it is: a digest must survive the store.
func fits(s string, limit int) bool { return domain.CheckText("", s, limit) == nil }
