package sandboxpay_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/infra/sandboxpay"
)

const paidBody = `{"merchant":"m1","kind":"paid","payment":"p-1","trade":"t-1","amount":500,"currency":"CNY","at":"2026-03-14T12:00:00Z"}`

var noon = time.Date(2026, 3, 14, 12, 0, 0, 0, time.UTC)

func signatureOf(values ...string) http.Header {
	h := http.Header{}
	for _, v := range values {
		h.Add(sandboxpay.SignatureHeader, v)
	}
	return h
}

func reader(tb testing.TB) *sandboxpay.Client {
	tb.Helper()
	return newClient(tb, sandboxpay.Config{OldSecret: "the one before", Now: func() time.Time { return noon }})
}

func TestACallbackSaysWhatHappened(t *testing.T) {
	at := noon.Add(-time.Minute)
	for body, want := range map[string]commands.Notice{
		paidBody: {Kind: commands.NoticePaid, Payment: "p-1", Trade: "t-1", Money: yuan(500), At: noon},
		`{"merchant":"m1","kind":"failed","payment":"p-1","note":"why","at":"2026-03-14T11:59:00Z"}`: {Kind: commands.NoticeFailed, Payment: "p-1", Note: "why", At: at},
		`{"merchant":"m1","kind":"refunded","payment":"p-1","trade":"t-1","refund":"r1","amount":1,"currency":"CNY"}`: {
			Kind: commands.NoticeRefunded, Payment: "p-1", Trade: "t-1", Refund: "r1", Money: yuan(1),
		},
		`{"merchant":"m1","kind":"refund_failed","payment":"p-1","trade":"t-1","refund":"r1","amount":1,"currency":"CNY","note":"why","newer":[1]}`: {
			Kind: commands.NoticeRefundFailed, Payment: "p-1", Trade: "t-1", Refund: "r1", Money: yuan(1), Note: "why",
		},
	} {
		for _, signer := range []string{secret, "the one before"} {
			got, err := reader(t).Read(t.Context(), signatureOf(sandboxpay.SignCallback(signer, noon, []byte(body))), []byte(body))
			if diff := cmp.Diff([]commands.Notice{want}, got); err != nil || diff != "" {
				t.Errorf("%s by %q: %v\n%s", body, signer, err, diff)
			}
		}
	}
}

func TestACallbackOfAnotherKindSaysNothing(t *testing.T) {
	body := []byte(`{"merchant":"m1","kind":"disputed","payment":"p-1"}`)
	got, err := reader(t).Read(t.Context(), signatureOf(sandboxpay.SignCallback(secret, noon, body)), body)
	if err != nil || len(got) != 0 {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestACallbackThatIsNotTheChannelsIsRefused(t *testing.T) {
	body := []byte(paidBody)
	good := sandboxpay.SignCallback(secret, noon, body)
	stamp, sum, _ := strings.Cut(good, ",")
	for name, h := range map[string]http.Header{
		"none":               {},
		"empty":              signatureOf(""),
		"two headers":        signatureOf(good, good),
		"another secret":     signatureOf(sandboxpay.SignCallback("guess", noon, body)),
		"an empty secret":    signatureOf(sandboxpay.SignCallback("", noon, body)),
		"too old":            signatureOf(sandboxpay.SignCallback(secret, noon.Add(-301*time.Second), body)),
		"too new":            signatureOf(sandboxpay.SignCallback(secret, noon.Add(301*time.Second), body)),
		"another body":       signatureOf(sandboxpay.SignCallback(secret, noon, []byte(`{}`))),
		"another time":       signatureOf(fmt.Sprintf("t=%d,%s", noon.Unix()-1, sum)),
		"no time":            signatureOf(sum),
		"two times":          signatureOf(stamp + "," + good),
		"no number":          signatureOf("t=noon," + sum),
		"a time below zero":  signatureOf("t=-1," + sum),
		"a time like no one": signatureOf("t=9999999999999999," + sum),
		"no signature":       signatureOf(stamp),
		"an empty one":       signatureOf(stamp + ",v1="),
		"a short one":        signatureOf(good[:len(good)-2]),
		"a long one":         signatureOf(good + "00"),
		"no hex":             signatureOf(good[:len(good)-1] + "g"),
		"another version":    signatureOf(strings.Replace(good, "v1=", "v2=", 1)),
		"many":               signatureOf(good + strings.Repeat(","+sum, 5)),
		"a megabyte":         signatureOf(good + strings.Repeat(",x=y", 1<<18)),
		"a request's":        signatureOf(sandboxpay.SignRequest(secret, noon, http.MethodPost, "/v1/payments", body)),
	} {
		got, err := reader(t).Read(t.Context(), h, body)
		if got != nil || domain.CodeOf(err) != domain.Invalid || domain.ReasonOf(err) != "bad_signature" {
			t.Errorf("%s: got %v, %v, want bad_signature", name, got, err)
		}
	}
	// With no second secret there is none that is empty.
	single := newClient(t, sandboxpay.Config{Now: func() time.Time { return noon }})
	if _, err := single.Read(t.Context(), signatureOf(sandboxpay.SignCallback("", noon, body)), body); domain.ReasonOf(err) != "bad_signature" {
		t.Errorf("an empty secret is taken: %v", err)
	}
	for name, header := range map[string]string{
		"at the old end": sandboxpay.SignCallback(secret, noon.Add(-300*time.Second), body),
		"at the new end": sandboxpay.SignCallback(secret, noon.Add(300*time.Second), body),
		"by two secrets": stamp + ",v1=" + strings.Repeat("00", 32) + "," + sum,
		"with more":      "v0=1, " + stamp + ", " + sum + ",x",
	} {
		if _, err := reader(t).Read(t.Context(), signatureOf(header), body); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestACallbackThatIsNotForUsOrUnreadableIsRefused(t *testing.T) {
	for body, want := range map[string]string{
		strings.Replace(paidBody, `"m1"`, `"m2"`, 1):         "wrong_merchant",
		strings.Replace(paidBody, `"merchant":"m1",`, "", 1): "wrong_merchant",
		`{}`:              "wrong_merchant",
		``:                "bad_callback",
		`[]`:              "bad_callback",
		`paid`:            "bad_callback",
		paidBody + `{}`:   "bad_callback",
		paidBody[:40]:     "bad_callback",
		"\xff" + paidBody: "bad_callback",
		strings.Replace(paidBody, "500", "5.5", 1):                  "bad_callback",
		strings.Replace(paidBody, "500", "99999999999999999999", 1): "bad_callback",
		strings.Replace(paidBody, "500", `"500"`, 1):                "bad_callback",
		strings.Replace(paidBody, "500", "0", 1):                    "bad_callback",
		strings.Replace(paidBody, "500", "-5", 1):                   "bad_callback",
		strings.Replace(paidBody, `"p-1"`, `""`, 1):                 "bad_callback",
		strings.Replace(paidBody, `"t-1"`, `""`, 1):                 "bad_callback",
		strings.Replace(paidBody, `"CNY"`, `""`, 1):                 "bad_callback",
		strings.Replace(paidBody, "2026-03-14T", "14.3.2026 ", 1):   "bad_callback",
		strings.Replace(paidBody, `"paid"`, `"refunded"`, 1):        "bad_callback",
		paidBody + strings.Repeat(" ", 64<<10):                      "bad_callback",
	} {
		got, err := reader(t).Read(t.Context(), signatureOf(sandboxpay.SignCallback(secret, noon, []byte(body))), []byte(body))
		if got != nil || domain.CodeOf(err) != domain.Invalid || domain.ReasonOf(err) != want {
			t.Errorf("%.100s: got %v, %v, want %s", body, got, err, want)
		}
	}
}

func TestOnlySuccessIsSuccess(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
		body string
	}{
		{nil, http.StatusOK, "SUCCESS"},
		{domain.Refuse(domain.Invalid, "bad_signature", "No."), http.StatusBadRequest, "FAIL bad_signature"},
		{fmt.Errorf("store: %w", domain.Refuse(domain.Unavailable, "store", "Later.")), http.StatusInternalServerError, "FAIL"},
		{errors.New("the disk is full"), http.StatusInternalServerError, "FAIL"},
	} {
		code, kind, body := reader(t).Answer(c.err)
		if code != c.code || string(body) != c.body || !strings.HasPrefix(kind, "text/plain") {
			t.Errorf("%v: %d %s %q", c.err, code, kind, body)
		}
	}
}

// Whatever comes, and though it is signed, is a whole notice, nothing, or a
// refusal.
func FuzzReadIsNeverHalfRight(f *testing.F) {
	for _, body := range []string{
		paidBody, ``, `{}`, `null`, `{"kind":"refunded","merchant":"m1","payment":"p","refund":"r","trade":"t","amount":1,"currency":"X"}`,
		`{"kind":"failed","merchant":"m1","payment":"p"}`, `{"merchant":"m1","kind":"pending"}`, strings.Repeat("[", 10_000),
	} {
		f.Add([]byte(body), sandboxpay.SignCallback(secret, noon, []byte(body)))
	}
	c := reader(f)
	f.Fuzz(func(t *testing.T, body []byte, header string) {
		for _, h := range []http.Header{signatureOf(header), signatureOf(sandboxpay.SignCallback(secret, noon, body))} {
			got, err := c.Read(t.Context(), h, body)
			switch {
			case err != nil && (got != nil || domain.CodeOf(err) != domain.Invalid || domain.ReasonOf(err) == ""):
				t.Errorf("%v, %v", got, err)
			case err == nil && len(got) > 1:
				t.Errorf("%d notices", len(got))
			case err == nil && len(got) == 1:
				if n := got[0]; n.Payment == "" || n.Kind == commands.NoticePending || n.Kind == commands.NoticePaid && (n.Trade == "" || n.Money.Amount <= 0) {
					t.Errorf("half of a notice: %+v", n)
				}
			}
		}
	})
}
