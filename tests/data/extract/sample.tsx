import React, { type FC } from "react";

interface Props { title: string; onClose?: () => void }

/** A dialog. */
export const Dialog: FC<Props> = ({ title, onClose }) => {
  const [open, setOpen] = React.useState(true);
  const close = () => setOpen(false);
  return <div className="dialog" onClick={close}><Header text={title} /></div>;
};

export default function App(): JSX.Element {
  return <Dialog title="x" />;
}

class Old extends React.Component<Props> {
  state = { open: false };
  render() { return <>{this.props.title}</>; }
}

export const Context = React.createContext<Props | null>(null);
const Memo = React.memo(function Inner(props: Props) { return null; });
