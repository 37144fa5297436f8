{-# LANGUAGE GADTs #-}
-- | The module.
module App.Box (Box (..), open, Shape (..)) where

import Data.List (sortBy, nub)
import qualified Data.Map as Map

-- | A box.
--
-- It holds.
data Box a = Box { size :: Int, lid :: Maybe a } | Empty deriving (Show)

newtype Name = Name { unName :: String }
type Visit a = Box a -> IO ()

data Expr a where
  IntE :: Int -> Expr Int

-- | Shapes.
class Shape s where
  area :: s -> Double
  name :: s -> String
  name _ = "x"

instance Shape (Box a) where
  area (Box s _) = fromIntegral s

-- | Opens it.
open :: Box a -> Bool -> Int
open (Box n _) force
  | force = n + local
  | otherwise = helper n
  where
    local = 1
    inner x = x
open Empty _ = 0

limit :: Int
limit = 3

helper, other :: Int -> Int
helper a = let hidden = a in Map.size Map.empty + hidden
other = helper . helper

(<+>) :: Int -> Int -> Int
a <+> b = a + b

type family Elem c
main :: IO ()
main = do
  let x = 1
  print (open Empty True)
