package order

import (
	"maps"
	"slices"

	"cartwright/domain"
	"cartwright/domain/money"
)

// pack puts units into a parcel. One that comes with its waybill ships at once.
func (o Order) pack(c Pack) ([]Event, error) {
	if err := o.may(ParcelPacked{}); err != nil {
		return nil, err
	}
	if len(o.Parcels) >= maxParcels {
		return nil, domain.Refuse(domain.Rejected, "too_many_parcels", "An order has at most %d parcels.", maxParcels)
	}
	ships := c.Carrier != "" || c.Number != ""
	if ships {
		if err := checkWaybill(c.Carrier, c.Number); err != nil {
			return nil, err
		}
	}
	parts, err := o.parts(c.Lines)
	if err != nil {
		return nil, err
	}
	packed := ParcelPacked{Parcel: len(o.Parcels) + 1, Lines: parts}
	if !ships {
		return []Event{packed}, nil
	}
	d := o.draft()
	d.add(packed)
	d.ship(packed.Parcel, c.Carrier, c.Number)
	return d.end()
}

// parts merges what is asked for by line, in the order of lines, and refuses
// what is not there to be packed.
func (o Order) parts(asked []Part) ([]Part, error) {
	if len(asked) == 0 {
		return nil, domain.Refuse(domain.Invalid, "empty_parcel", "A parcel has something in it.")
	}
	merged := map[int]int64{}
	for _, p := range asked {
		if _, ok := o.item(p.Line); !ok {
			return nil, unknownLine(p.Line)
		}
		if p.Quantity <= 0 {
			return nil, domain.Refuse(domain.Invalid, "invalid_quantity", "%d units of line %d can't be packed.", p.Quantity, p.Line)
		}
		sum, err := money.Add(merged[p.Line], p.Quantity)
		if err != nil {
			return nil, overflow()
		}
		merged[p.Line] = sum
	}
	parts := make([]Part, 0, len(merged))
	for _, line := range slices.Sorted(maps.Keys(merged)) {
		if err := o.Lines[line-1].packable(merged[line]); err != nil {
			return nil, err
		}
		parts = append(parts, Part{line, merged[line]})
	}
	return parts, nil
}

func (it Item) packable(quantity int64) error {
	switch left := it.toPack(); {
	case left == 0:
		return domain.Refuse(domain.Conflict, "nothing_to_ship", "Nothing of line %d is left to ship.", it.Line.Line)
	case quantity > left:
		return domain.Refuse(domain.Conflict, "too_much_to_ship", "Only %d of line %d are left to ship.", left, it.Line.Line)
	}
	return nil
}

func (o Order) unpack(c Unpack) ([]Event, error) {
	p, err := o.findParcel(c.Parcel)
	if err != nil {
		return nil, err
	}
	if p.hasShipped() {
		return nil, domain.Refuse(domain.Conflict, "parcel_shipped", "Parcel %d has shipped.", c.Parcel)
	}
	return o.record(p.Status == ParcelIsUnpacked, ParcelUnpacked(c))
}

// setWaybill writes a waybill under its own version, as one writes a file by
// If-Match: a write that knew an older version loses. The exact repeat of the
// write that won is answered as it was, whatever has become of the order.
func (o Order) setWaybill(c SetWaybill) ([]Event, error) {
	if err := checkWaybill(c.Carrier, c.Number); err != nil {
		return nil, err
	}
	p, err := o.findParcel(c.Parcel)
	if err != nil {
		return nil, err
	}
	now := p.Waybill
	same := c.Carrier == now.Carrier && c.Number == now.Number
	switch {
	case p.Status == ParcelIsUnpacked:
		return nil, domain.Refuse(domain.Conflict, "parcel_unpacked", "Parcel %d was taken apart.", c.Parcel)
	case same && (c.Version == now.Version-1 || c.Version == now.Version):
		return nil, nil
	case c.Version != now.Version:
		return nil, domain.Refuse(domain.Stale, "waybill_stale", "The waybill of parcel %d is at version %d.", c.Parcel, now.Version)
	case p.Status == ParcelIsDelivered:
		return nil, domain.Refuse(domain.Conflict, "parcel_delivered", "Parcel %d was delivered under waybill %s.", c.Parcel, now.Number)
	case now.Version >= maxWaybills:
		return nil, domain.Refuse(domain.Rejected, "too_many_waybills", "A waybill changes at most %d times.", maxWaybills-1)
	}
	set := WaybillSet{Parcel: c.Parcel, Version: now.Version + 1, Carrier: c.Carrier, Number: c.Number}
	if err = o.may(set); err != nil {
		return nil, err
	}
	if now.Version > 0 {
		return []Event{set}, nil
	}
	d := o.draft()
	d.ship(c.Parcel, c.Carrier, c.Number)
	return d.end()
}

// ship gives a parcel its first waybill, which ships it.
func (d *draft) ship(parcel int, carrier, number string) {
	d.add(WaybillSet{Parcel: parcel, Version: 1, Carrier: carrier, Number: number})
	d.add(ParcelShipped{parcel})
}

// unpackAll takes apart what is packed and will not ship.
func (d *draft) unpackAll() {
	for _, p := range d.order.Parcels {
		if p.Status == ParcelIsPacked {
			d.add(ParcelUnpacked{p.Parcel})
		}
	}
}

func (o Order) deliver(c Deliver) ([]Event, error) {
	p, err := o.findParcel(c.Parcel)
	if err != nil {
		return nil, err
	}
	if !p.hasShipped() {
		return nil, notShipped(p)
	}
	return o.record(p.Status == ParcelIsDelivered, ParcelDelivered{c.Parcel, c.Completes.UTC()})
}

func (o Order) findParcel(parcel int) (Parcel, error) {
	p, ok := o.parcel(parcel)
	if !ok {
		return p, domain.Refuse(domain.NotFound, "unknown_parcel", "The order has no parcel %d.", parcel)
	}
	return p, nil
}

func notShipped(p Parcel) error {
	return domain.Refuse(domain.Conflict, "parcel_not_shipped", "Parcel %d is %s: it has not shipped.", p.Parcel, p.Status)
}

func unknownLine(line int) error {
	return domain.Refuse(domain.NotFound, "unknown_line", "The order has no line %d.", line)
}
