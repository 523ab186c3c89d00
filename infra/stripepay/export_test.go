package stripepay

// RememberOnly has a channel know the intents of so many payments.
func (c *Client) RememberOnly(payments int) { c.known = newMemory(payments) }
