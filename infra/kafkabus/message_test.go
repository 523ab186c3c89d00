package kafkabus_test

import (
	"maps"
	"testing"

	"github.com/IBM/sarama"

	"cartwright/infra/kafkabus"
)

func record(headers map[string]string) *sarama.ConsumerMessage {
	m := &sarama.ConsumerMessage{Topic: topic, Value: []byte(`{}`)}
	for k, v := range headers {
		m.Headers = append(m.Headers, &sarama.RecordHeader{Key: []byte(k), Value: []byte(v)})
	}
	return m
}

func whole() map[string]string {
	return map[string]string{
		"ce_specversion": "1.0", "ce_id": "1", "ce_type": "order.placed", "ce_source": "/cartwright", "ce_subject": "order-1",
		"ce_time": "2017-10-02T10:56:33Z", "content-type": "application/json", "ce_revision": "1", "ce_position": "1", "ce_eventversion": "1",
	}
}

func TestARecordThatLacksSomethingIsNoEvent(t *testing.T) {
	if _, err := kafkabus.Decode(record(whole())); err != nil {
		t.Fatalf("a whole one: %v", err)
	}
	for _, name := range []string{"ce_specversion", "ce_id", "ce_type", "ce_subject", "ce_revision", "ce_position", "ce_eventversion"} {
		h := whole()
		delete(h, name)
		if e, err := kafkabus.Decode(record(h)); err == nil {
			t.Errorf("without %s it is %+v", name, e)
		}
	}
}

func TestARecordWithASenselessHeaderIsNoEvent(t *testing.T) {
	for name, value := range map[string]string{
		"ce_specversion": "0.3", "ce_revision": "-1", "ce_position": "x", "ce_eventversion": "1.0", "ce_time": "yesterday", "ce_recordedtime": "1",
	} {
		h := whole()
		h[name] = value
		if e, err := kafkabus.Decode(record(h)); err == nil {
			t.Errorf("with %s %q it is %+v", name, value, e)
		}
	}
}

func TestForeignHeadersAreIgnored(t *testing.T) {
	h := whole()
	maps.Copy(h, map[string]string{"x-else": "1", "ce_dataschema": "urn:x", "tracestate": "a=b"})
	if _, err := kafkabus.Decode(record(h)); err != nil {
		t.Fatal(err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("ce_revision", []byte("1"), []byte(`{}`))
	f.Add("", []byte(nil), []byte(nil))
	f.Fuzz(func(t *testing.T, name string, value, data []byte) {
		m := record(whole())
		m.Value = data
		m.Headers = append(m.Headers, &sarama.RecordHeader{Key: []byte(name), Value: value})
		e, err := kafkabus.Decode(m)
		if err == nil && (e.Stream == "" || e.Name == "" || e.Revision == 0 || string(e.Data) != string(data)) {
			t.Fatalf("half an event: %+v", e)
		}
	})
}
