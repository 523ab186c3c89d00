package writeapi_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/money"
	"cartwright/writeapi"
)

// plainChannel believes whoever knows the word, and says what it is told line by line.
type plainChannel struct{}

func (plainChannel) Read(_ context.Context, header http.Header, body []byte) ([]commands.Notice, error) {
	if header.Get("Word") != "sesame" {
		return nil, domain.Refuse(domain.Invalid, "bad_signature", "The word is another.")
	}
	var notices []commands.Notice
	for trade := range strings.FieldsSeq(string(body)) {
		notices = append(notices, commands.Notice{Kind: commands.NoticePaid, Payment: "1-1", Trade: trade, Money: money.Money{Amount: 5, Currency: "CNY"}})
	}
	return notices, nil
}

func (plainChannel) Answer(err error) (status int, contentType string, body []byte) {
	switch {
	case err == nil:
		return http.StatusOK, "text/plain", []byte("SUCCESS")
	case domain.CodeOf(err) == domain.Invalid:
		return http.StatusBadRequest, "text/plain", []byte("NO")
	}
	return http.StatusInternalServerError, "text/plain", []byte("FAIL")
}

func callBack(t *testing.T, shop writeapi.Shop, channel, word, body string) *httptest.ResponseRecorder {
	t.Helper()
	h := mount(t, writeapi.Config{Shop: shop, DigestSecret: secret, Channels: map[string]writeapi.Listener{"plain": plainChannel{}}})
	return request{http.MethodPost, "/v1/channels/" + channel + "/callback", body, map[string]string{"Word": word, "Idempotency-Key": "-", "Content-Type": "text/plain"}}.send(t, h)
}

func TestAChannelIsToldOnlyWhatIsOnRecord(t *testing.T) {
	shop := &recorder{}
	if w := callBack(t, shop, "plain", "sesame", "a b"); w.Code != http.StatusOK || w.Body.String() != "SUCCESS" || w.Header().Get("Content-Type") != "text/plain" {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	var trades []string
	for _, c := range shop.calls {
		n, _ := c.with.(commands.Notice)
		trades = append(trades, c.id+" "+n.Trade)
	}
	if diff := cmp.Diff([]string{"plain a", "plain b"}, trades); diff != "" {
		t.Error(diff)
	}
	for name, err := range map[string]error{
		"the log is away": &domain.Error{Code: domain.Unavailable, Reason: "store_unavailable"}, "a fault of ours": errors.New("oh"),
	} {
		if w := callBack(t, &recorder{err: err}, "plain", "sesame", "a"); w.Code != http.StatusInternalServerError || w.Body.String() != "FAIL" {
			t.Errorf("%s: got %d %s", name, w.Code, w.Body)
		}
	}
}

func TestACallbackThatIsNotBelievedRecordsNothing(t *testing.T) {
	shop := &recorder{}
	if w := callBack(t, shop, "plain", "beans", "a"); w.Code != http.StatusBadRequest || w.Body.String() != "NO" {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	refused(t, callBack(t, shop, "paypal", "sesame", "a"), http.StatusNotFound, "unknown_channel")
	refused(t, callBack(t, shop, "plain", "sesame", strings.Repeat("a", 256<<10+1)), http.StatusRequestEntityTooLarge, "body_too_large")
	if w := callBack(t, shop, "plain", "sesame", ""); w.Code != http.StatusOK {
		t.Errorf("a callback that says nothing: %d", w.Code)
	}
	if len(shop.calls) != 0 {
		t.Errorf("the shop was asked %+v", shop.calls)
	}
}
