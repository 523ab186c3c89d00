package alipay

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// yuan is the only currency, of which a fen is the minor unit.
const yuan = "CNY"

// mostFen is Alipay's limit of one trade: a hundred million yuan.
const mostFen = 100_000_000_00

// inYuan writes an amount of fen, which is more than nothing, as Alipay reads it.
func inYuan(fen int64) string {
	return fmt.Sprintf("%d.%02d", fen/100, fen%100)
}

// errAmount is what reading an amount fails of.
var errAmount = errors.New("not an amount in yuan")

// inFen reads what Alipay writes: yuan with two decimals at most, nothing else.
func inFen(s string) (int64, error) {
	whole, part, dotted := strings.Cut(s, ".")
	if !isDigits(whole) || dotted && !isDigits(part) || len(part) > 2 {
		return 0, errAmount
	}
	fen, err := strconv.ParseInt(whole+(part + "00")[:2], 10, 64)
	if err != nil {
		return 0, errAmount
	}
	return fen, nil
}

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
