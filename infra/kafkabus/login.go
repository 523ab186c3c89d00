package kafkabus

import (
	"context"
	"errors"
	"fmt"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// SASL is a user who logs in. PLAIN shows the password to whoever listens, and
// to the broker, so it belongs over TLS; SCRAM shows it to nobody.
type SASL struct {
	Mechanism string // "PLAIN", "SCRAM-SHA-256" or "SCRAM-SHA-512"; empty is PLAIN
	User      string
	Password  string
}

func (s *SASL) check() error {
	if s == nil {
		return nil
	}
	if s.User == "" || s.Password == "" {
		return errors.New("kafka: a login needs a user and a password")
	}
	switch s.mechanism() {
	case sarama.SASLTypePlaintext, sarama.SASLTypeSCRAMSHA256, sarama.SASLTypeSCRAMSHA512:
		return nil
	}
	return fmt.Errorf("kafka: login by %q; there are %s, %s and %s",
		s.Mechanism, sarama.SASLTypePlaintext, sarama.SASLTypeSCRAMSHA256, sarama.SASLTypeSCRAMSHA512)
}

func (s *SASL) mechanism() sarama.SASLMechanism {
	if s.Mechanism == "" {
		return sarama.SASLTypePlaintext
	}
	return sarama.SASLMechanism(s.Mechanism)
}

func (s *SASL) apply(c *sarama.Config) {
	if s == nil {
		return
	}
	c.Net.SASL.Enable = true
	c.Net.SASL.Mechanism = s.mechanism()
	c.Net.SASL.User, c.Net.SASL.Password = s.User, s.Password
	c.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient {
		return &scramLogin{mechanism: s.mechanism()}
	}
}

// A scramLogin is one login by franz-go's SCRAM, as sarama wants to be handed
// it: sarama has none of its own.
type scramLogin struct {
	mechanism sarama.SASLMechanism
	session   sasl.Session
	first     []byte
	done      bool
}

// Begin implements sarama.SCRAMClient.
func (l *scramLogin) Begin(user, password, authzID string) (err error) {
	auth := scram.Auth{User: user, Pass: password, Zid: authzID}
	m := auth.AsSha256Mechanism()
	if l.mechanism == sarama.SASLTypeSCRAMSHA512 {
		m = auth.AsSha512Mechanism()
	}
	l.session, l.first, err = m.Authenticate(context.Background(), "") // waits for nothing
	return err
}

// Step implements sarama.SCRAMClient. The first challenge is empty.
func (l *scramLogin) Step(challenge string) (string, error) {
	if first := l.first; first != nil {
		l.first = nil
		return string(first), nil
	}
	done, answer, err := l.session.Challenge([]byte(challenge))
	l.done = done
	return string(answer), err
}

// Done implements sarama.SCRAMClient.
func (l *scramLogin) Done() bool { return l.done }
