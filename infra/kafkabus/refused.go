package kafkabus

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/IBM/sarama"
)

// ErrRefused is wrapped by the errors of EnsureTopic that waiting will not cure:
// somebody has to change a setting of ours or of the brokers'.
var ErrRefused = errors.New("refused")

// refusals are the answers of a broker that are the same however often it is asked.
var refusals = []error{
	sarama.ErrSASLAuthenticationFailed,
	sarama.ErrUnsupportedSASLMechanism,
	sarama.ErrIllegalSASLState, // the listener wants a login, and we had none
	sarama.ErrTopicAuthorizationFailed,
	sarama.ErrGroupAuthorizationFailed,
	sarama.ErrClusterAuthorizationFailed,
	sarama.ErrTransactionalIDAuthorizationFailed,
	sarama.ErrInvalidTopic,
	sarama.ErrInvalidPartitions,
	sarama.ErrInvalidReplicationFactor,
	sarama.ErrInvalidConfig,
	sarama.ErrPolicyViolation,
	sarama.ErrUnsupportedVersion,
	sarama.ErrMessageSizeTooLarge,
}

// hopeless tells what will not get better by itself from an outage, which does.
func hopeless(err error) bool {
	if errors.Is(err, ErrRefused) || slices.ContainsFunc(refusals, func(r error) bool { return errors.Is(err, r) }) {
		return true
	}
	_, wrongConfig := errors.AsType[sarama.ConfigurationError](err)
	return wrongConfig || untrusted(err)
}

// untrusted reports that TLS was refused by either side, or is not spoken there.
func untrusted(err error) bool {
	_, certificate := errors.AsType[*tls.CertificateVerificationError](err)
	_, authority := errors.AsType[x509.UnknownAuthorityError](err)
	_, name := errors.AsType[x509.HostnameError](err)
	_, alert := errors.AsType[tls.AlertError](err)
	_, noTLS := errors.AsType[tls.RecordHeaderError](err)
	return certificate || authority || name || alert || noTLS
}

// refused marks what is hopeless as such, for callers.
func refused(err error) error {
	if hopeless(err) && !errors.Is(err, ErrRefused) {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return err
}
